"""What the commands share, in the order in which a model comes about and is used.

The ground             errors  streams  files  proxy  retry  machine  parallel
Text and token ids     tokenizer  wordpiece  vocabulary  conversation  records
Models on disk         families  lora  checkpoint  hf  origin
Training               batch  objectives  optimizers  run  replay
Generating             decoding  chat  search
Judging                metrics  plots  report
Questions on a book    book/  source  facts  wordings  questions  llm

Arrows run one way: model.py, then this package, then configurator.py and data_utils.py, then the scripts.
"""
