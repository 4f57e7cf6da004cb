"""The configuration of one experiment: settings by group, rules, presets and what they mean."""
