"""The configuration of one experiment: its groups, presets, and how it is read.

schema          all groups as one record
privacy_rules   the rules between groups for clipping and noise
secure_rules    the rules between groups for secure sums
eval_rules      the rules between groups for what is measured
federation      `federation.*`: clients, cohorts and rounds
data            `data.*`: the images
resources       `resources.*`: actors, CPUs and GPUs
tracking        `tracking.*`: records and their place
plugins         objects of other packages that a configuration names
load            presets, YAML and overrides, merged
safe_yaml       YAML restricted to plain values
build           records from plain values, each checked by its field's type
key_hints       the setting that an unknown key may mean
switches        settings that count only where another setting lets them
place_switches  the same for where a run takes place
equivalence     fingerprints: configurations with the same meaning
effect          settings that are typed and would have no effect
presets/        named configurations
"""
