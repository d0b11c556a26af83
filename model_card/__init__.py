"""Cards and publishing: fills the cards from result files and pushes a checked release to the Hub."""
