"""What the commands share, in the order in which a model comes about and is used.

The ground             errors  streams  files  json_stream  proxy  retry  machine  parallel
Text and token ids     tokenizer  wordpiece  vocabulary  typed  conversation  records
Models on disk         families  lora  checkpoint  hf  origin
Training               batch  objectives  optimizers  run  replay
Generating             decoding  chat  search
Judging                metrics  plots  report
Questions on a book    book/  source  sections  facts  absence  wordings  questions  llm

Arrows run one way: model.py, then this package, then configurator.py and data_utils.py, then the scripts.
"""
