# The leaderboard's long track: the demo's recipe for ten minutes (make speedrun, docs/leaderboard.md).
exec(open("config/demo_pretrain.py", encoding="utf-8").read())
out_dir = "out/speedrun-ten"
epochs, fit_minutes = 0.0, 10.0
dropout = 0.15
eval_interval = 100_000  # at the end alone
log_interval = 20
block_size, batch_size = 256, 8  # as the record was set
