"""What nobody can beat: seconds of an answer for somebody who knows the text, the link and all times beforehand."""
