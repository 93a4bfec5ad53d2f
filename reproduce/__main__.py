from reproduce.cli import run

if __name__ == '__main__':  # processes that this one starts import it, too
    run()
