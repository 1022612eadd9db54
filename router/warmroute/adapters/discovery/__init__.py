"""Where the fleet's members are learned: `static`, from the configuration."""
