"""The split of a labelled data set over clients.

split     the partition: training and test images of each client, and its hash
sizes     the numbers of images of clients that all hold as many
schemes   the rules by which clients draw images
natural   the partition of data whose clients exist
coverage  distances of a new client's class mixture to those of the others
styles    ways in which clients draw their images
"""
