"""What the controller plans for the next draft batch, and the policies that plan it."""
