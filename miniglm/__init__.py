"""What the commands share, in the order in which a model comes about and is used.

The ground             errors  streams  files  json_stream  proxy  retry  download  machine  parallel
Text and token ids     tokenizer  template  wordpiece  foreign  vocabulary  typed  conversation  records  rows
Models on disk         families  conversion  lora  checkpoint  hf  origin  llama_cpp
Training               batch  objectives  sources  rewards  rollouts  optimizers  run  replay
Generating             decoding  grammar  chat  search
Judging                metrics  plots  report
The page               page/  words  visitors  controls  markup  models  speech  talks  kept  look  lessons  protocol
A book is read         book/  source  sections  mentions  people  relations  scenes  episodes  known
                       book/  facts
 asked about           book/  wordings  absence  smalltalk  lookups  questions  judged  llm
 looked into           book/  asking  quoting  passages  indexing  reader

Arrows run one way: model.py, then this package, then configurator.py and data_utils.py, then the scripts.
"""
