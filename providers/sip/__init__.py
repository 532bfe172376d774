"""SIP: messages, transactions, dialogs and calls, without any carrier between."""
