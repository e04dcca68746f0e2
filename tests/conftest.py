"""What holds for all tiers: Ctrl-C reaches what tests start, also where a shell runs the suite in its background."""

import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
