# QLoRA on three domains of Safety-Prompts, 30,000 records, for an open model; the commands around it are in
# docs/weights.md. It needs the set's own file, and for 13 billion parameters a GPU with 16 GB.
out_dir = "out/qlora-safety"
ckpt_dir = "models/Baichuan-13B-Base"
dataset = "safety"
init_from = "auto"
lora_rank = 8
lora_alpha = 16.0
lora_dropout = 0.05
quantize = "nf4"
gradient_checkpointing = True
batch_size = 4
gradient_accumulation_steps = 4
learning_rate = 2e-4
min_lr = 2e-5
weight_decay = 0.0
warmup_iters = 50
epochs = 1
eval_interval = 200
eval_iters = 20
log_interval = 10
