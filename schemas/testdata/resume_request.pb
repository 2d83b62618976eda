
bob@desk