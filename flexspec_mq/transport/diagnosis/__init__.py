"""What keeps us from a broker, asked on the wire: of the doctor, of the broker's check, and of a daemon's start."""
