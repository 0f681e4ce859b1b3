"""What the commands share, in the order in which a model comes about and is used.

The ground:            errors  files  machine  parallel
Text and token ids:    tokenizer  wordpiece  vocabulary  conversation
Models on disk:        families  hf  lora  checkpoint  origin
Training:              batch  objectives  optimizers  run  replay
Generating:            decoding  chat  search
Judging:               metrics  plots  report
Questions about books: book/  facts  wordings  llm
"""
