# After one of the align_ recipes: the same for an open model of half a billion parameters, on a GPU with 24 GB.
# python train.py config/align_dpo.py config/align_open.py --dataset=open_pairs --out_dir=out/open-dpo
# The data come before it, see docs/alignment.md. With LoRA the reference is the model itself: no second copy.
ckpt_dir = "models/Qwen2.5-0.5B-Instruct"
lora_rank = 16
lora_alpha = 32.0
block_size = 1024
max_new_tokens = 256  # of an answer that is drawn
gradient_checkpointing = True
batch_size = 16  # rows of pairs, or answers
gradient_accumulation_steps = 4
learning_rate = 1e-4
min_lr = 1e-5
warmup_iters = 20
max_iters = 300
eval_interval = 100
eval_iters = 5
log_interval = 5
