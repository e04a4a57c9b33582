"""Programs of the two sides of a link: one tells its round trip in seconds, the other answers."""

PING = """
import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(20)
began = time.monotonic()
s.sendto(b"x", (sys.argv[1], 7000))
s.recv(1)
print(time.monotonic() - began)
"""
ECHO = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind((sys.argv[1], 7000))
print("ready", flush=True)
while True:
    data, peer = s.recvfrom(10)
    s.sendto(data, peer)
"""
