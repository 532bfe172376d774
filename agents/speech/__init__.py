"""Speech with no key and no network: a synthesiser, a recogniser of small grammars."""
