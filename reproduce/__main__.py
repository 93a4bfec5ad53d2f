from reproduce.cli import run

run()
