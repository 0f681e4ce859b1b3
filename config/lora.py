# The demo's questions with LoRA: only a small change of the pretrained weights is trained (python demo.py lora).
out_dir = "out/lora"
ckpt_dir = "out/demo-pretrain"
dataset = "sanguo_sft"
init_from = "auto"
lora_rank = 8
lora_alpha = 16.0
batch_size = 2  # small: what has few parameters learns more from more steps than from larger ones
learning_rate = 5e-3  # five times that of full fine-tuning with AdamW; 2e-2 learns nothing
min_lr = 5e-5
weight_decay = 0.0
warmup_iters = 20
max_iters = 1680  # as many rows as 420 steps of config/demo_chat.py
eval_interval = 560
eval_iters = 5
log_interval = 10
