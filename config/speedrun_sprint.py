# The leaderboard's short track: as few steps as come below PPMd's 6.49 bits (make speedrun, docs/leaderboard.md).
exec(open("config/demo_pretrain.py", encoding="utf-8").read())
out_dir = "out/speedrun-sprint"
epochs, fit_minutes = 0.0, 0.0
max_iters = 430
dropout = 0.0
eval_interval = 100_000  # at the end alone
log_interval = 20
block_size, batch_size = 256, 8  # as the record was set
