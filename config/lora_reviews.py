# The reviews' labels with LoRA: what a model knows already, a small change is enough to ask for (python demo.py lora).
out_dir = "out/lora-reviews"
ckpt_dir = "out/reviews-pretrain"
dataset = "reviews_sft"
init_from = "auto"
lora_rank = 4
lora_alpha = 8.0
batch_size = 16
learning_rate = 5e-3
min_lr = 5e-5
weight_decay = 0.0
warmup_iters = 20
max_iters = 400
eval_interval = 50
eval_iters = 10
log_interval = 5
