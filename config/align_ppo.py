# PPO: the same with a critic, a second head that learns what an answer will be worth. Two minutes.
out_dir = "out/align-ppo"
ckpt_dir = "out/demo-chat"
dataset = "sanguo_prompts"
objective = "ppo"
reward = "right=1,denied=-0.5,loop=-1"
group_size = 4
steps_a_draw = 2
max_new_tokens = 80
beta = 0.02
init_from = "auto"
batch_size = 64  # answers of a step
learning_rate = 2e-5  # five times as much made it forget what it refuses
min_lr = 1e-5
weight_decay = 0.0
warmup_iters = 2
max_iters = 30
eval_interval = 30
eval_iters = 1
log_interval = 1
