"""Links to test on: emulated networks with the delay, jitter, rate, loss and outages of a profile.

`netns` joins two network namespaces and carries real IP packets (root, Linux). `proxy` carries the bytes of TCP
connections and needs no root. Both apply `impairment`, which knows no sockets and no clock.
"""
