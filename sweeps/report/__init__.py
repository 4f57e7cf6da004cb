"""The report of a sweep, from the runs in MLflow, and rows of others, to pages.

make         `spire report`, from top to bottom; the place to begin
compose      what a report says, of what it is made
groups       runs by task, method and setting
choice       the best setting of a method
captions     tasks with captions, in which KID orders nothing
stats        means, intervals and paired differences
tables       tables of methods and settings
differences  differences to SPIRE on the same seeds
coverage     how a lead over SPIRE depends on coverage
client_coverage  the same among new clients of one world
coverage_dots    these clients and their lines as figures
regression   lines through points in clusters
clients      numbers of single clients, from the store or from rows
primary      the comparisons that a study is about, tested
recorded     the same as a sweep has recorded them, on the runs that it planned
planes       scores over two settings
budgets      scores and attacks against the privacy budget of one image
epochs       new clients along their epochs
controls     new clients' images beside copies, fresh images and the nearest client's
prompts      new clients that are asked for prompts they never showed
series       the lines of figures
figures      figures of the report
fit_axis     the axis along a fit: steps or epochs
forest       the primary comparisons as one figure
seed_plots   plots with a mean and a range over seeds
heat_maps    heat maps over two settings
finals       the final numbers of a run, with what it sent and what tags hold
answers      what a report found, in a sentence for each question
words        the methods and KID, explained for the first screen
facts        sentences of the report: runs, scores, warnings
contents     what a report consists of
origins      question, date, command, pages of its runs, and all parameters
client_dots  the main comparison, client by client
samples      pictures that runs drew
marks        which cells of a table are the best
pages        HTML and Markdown
files        the files of a report
terminal     a report as text for a terminal
runs         the table of every run
row_runs     the columns of rows, and the runs behind them
stretches    rows of other stretches, read back as runs
rows         each client's scores in each run, as CSV
study_page   what follows from rows, in the page of a study
"""
