"""The command `spire`.

main          the parser of all verbs
command       parsing, answers, errors and interrupts that verbs share
completion    what a tab offers in a shell
words         names and settings among the words of a command line
settings      settings as Python has them, as such words
run           `spire run` and `spire resume`
outputs       files that verbs write where the user says
presets       arguments of the verbs that take a preset
clients       `spire adapt` and `spire sample`
export        `spire export`
audit         `spire audit`
data          `spire data fetch` and `spire data show`
doctor        `spire doctor`
examine       the findings of the doctor
sync          `spire sync`
theory        `spire theory`
progress      the progress display
setup_text    an experiment before it runs, as text and JSON
result_text   a finished experiment, as text and JSON
arrival_text  a new client of a finished run, as text and JSON
tables        numbers and tables in a terminal
"""
