# GRPO: the demo's model answers itself, eight times each, and what the book bears out becomes likelier. Two minutes.
out_dir = "out/align-grpo"
ckpt_dir = "out/demo-chat"
dataset = "sanguo_prompts"
objective = "grpo"
reward = "right=1,denied=-0.5,loop=-1"
group_size = 8
max_new_tokens = 80
beta = 0.02
init_from = "auto"
batch_size = 128  # answers of a step: 16 questions
learning_rate = 1e-4
min_lr = 1e-5
weight_decay = 0.0
warmup_iters = 4
max_iters = 24
eval_interval = 24
eval_iters = 1
log_interval = 1
