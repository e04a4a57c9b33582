"""``flexspec draft``: the commands that make a draft."""
