"""The suite against itself: wrong candidates that it must find, right ones that pass.

====================  ======================================================
`fault`               what a fault is, and how a third party declares one
`catalogue`           every fault that is installed, by name
`field`               the faults seen in public, and where each is planted
`plain`, `correct`    candidates that are right, in many ways
`kill`, `matrix`      which check finds a fault; `mxmoe faults` prints it
the other files       the faults, one family a file
====================  ======================================================
"""
