# The report's model and recipe: 6 layers, 512 wide, 45M parameters, GPT-2's tokens. Meant for a GPU.
#   python data/fetch_data.py && python data/prepare.py && python train.py config/train_config.py
out_dir = "out/pretrain"
dataset = "sanguo"
n_layer, n_head, n_embd = 6, 8, 512
block_size = 512
batch_size = 12
gradient_accumulation_steps = 1
learning_rate = 1e-3
min_lr = 1e-4
max_iters = 6000
warmup_iters = 100
eval_interval = 250
