"""Data sets: catalogue, download, verification, images.

catalog        the known data sets: shapes, class names, hashes
datasets       loading and verification
fetch          a data set from the first source that works
sources        the sources: a local folder, torchvision's servers, packages
download       a file from a server, in bounded time
formats        decoders of the published files
hidden         which images `partition.hidden` means
image_folder   a folder of the user's own images
client_folder  a folder of the user's own images, with their owners
metadata       a file that lists images, their owners and captions
items          images in memory, each with its label, client and caption
arrays         images in memory, as a folder
outside        data sets that other packages bring
glyphs         fonts as clients: the drawing of their glyphs
font_store     the stored data set of fonts
hashes         SHA-256 of arrays
channels       own images in grey or in colour
resize         images at the size of the model
"""
