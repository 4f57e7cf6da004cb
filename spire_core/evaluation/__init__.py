"""Scores of generated images and the features behind them.

kid            Kernel Inception Distance
image_metrics  total variation between classes, nearest-neighbour distances
reference_split  images of a test split with a client's class mixture
memorisation   generated images among training and held-out ones: copies and their p-value
likelihood     FLD gap: training images against held-out ones, given generated ones
precision_recall  precision and recall, over several clients
prompted_images  images drawn for prompts against real ones: whose style they have, controls
extractors     feature extractors by name
classifier     small classifiers of the known data sets, as extractors
inception      Inception v3, as an extractor
feature_cache  features of real images on disk
selftest       a check that extractor and KID separate real images from others
"""
