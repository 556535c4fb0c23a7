"""Pictures and pages of what an evaluation wrote; of the toolkit, they know its result types alone."""
