"""Signal code: bytes or int16 arrays in, the same out. No sockets, no clocks, no asyncio."""
