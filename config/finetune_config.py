# The report's fine-tuning: 4,500 steps at 1e-4 from the model of train_config.py. Meant for a GPU.
#   python data/build_sft.py && python data/prepare_sft.py data/sanguo_sft/questions.jsonl \
#       --dataset=sanguo_sft_gpt2 --tokenizer_from=data/sanguo --block_size=512
#   python train.py config/finetune_config.py
out_dir = "out/chat"
ckpt_dir = "out/pretrain"
init_from = "finetune"
dataset = "sanguo_sft_gpt2"
batch_size = 12
learning_rate = 1e-4
min_lr = 1e-5
max_iters = 4500
warmup_iters = 100
eval_interval = 250
