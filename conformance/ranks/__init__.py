"""Ranks as real processes: started by torchrun, judged by the process that asked."""
