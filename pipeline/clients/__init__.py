"""The clients' side: workers that simulate clients, one after the other.

worker              a task for each request of the experiment, its clients and their files
round_worker        its part in rounds: training, sums and noise
context             the network on its device, which all work on clients shares
client_data         one client's images and class mixture
rounds              the trainer: a client's part of a pre-training round
latents             its images as latents of a pre-trained model, encoded once
drawing             images drawn as clients
evaluation          the evaluator: generated images, their scores, and held-out losses
copies              whether images are copies of training images
image_controls      the scores of images that no fit to a new client has drawn
other_scores        scores by metrics of other packages
text_scores         scores of images drawn for prompts, and two controls
adaptation          the adapter: a new client fits its own parts
observer            a look at it between epochs, and once its fit is over
guidance            the guidance that it chooses by images that it set aside
private_adaptation  how the adapter protects a new client's images
store               private states on disk, one file for each client and round
profiler            torch.profiler in a worker
memory              memory of a round, and actors that fit into a node
free_memory         free memory of the machine and of its containers
process             settings of a worker's process: threads, freed memory
"""
