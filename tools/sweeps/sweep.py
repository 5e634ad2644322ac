"""What every sweep is: steps that count, until it has enough or its time is over."""


class Sweep:
    """`steps` does one thing after another and yields after each, so that it can be stopped between them."""

    name = ""
    programs = ()
    """That must be installed."""
    unit = ""
    """The count that is aimed at; empty: until the steps end by themselves."""
    full = 0
    short = 0
    in_short = True
    """Whether the short form has it too."""

    def __init__(self, program, folder, counts, random, short):
        self.program, self.folder, self.counts, self.random = program, folder, counts, random
        self.is_short = short

    def add(self, name, count=1):
        self.counts[name] = self.counts.get(name, 0) + count

    def __getitem__(self, name):
        return self.counts.get(name, 0)

    def wrong(self, text):
        self.add("wrong")
        print(f"{self.name}: WRONG: {text}", flush=True)

    def steps(self):
        raise NotImplementedError

    def needs(self):
        return self.programs

    def close(self):
        """Lets go of what the machine gave."""

    def figure(self):
        raise NotImplementedError
