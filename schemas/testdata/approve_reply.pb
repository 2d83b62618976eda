5 deletions go ahead
h2"bad