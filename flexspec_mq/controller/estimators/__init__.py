"""What a node measures of its channel, its draft and its workers."""
