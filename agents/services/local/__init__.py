"""What needs no key and no network: the grammar recogniser, flite and espeak-ng."""
