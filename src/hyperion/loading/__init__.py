"""From files to memory: mapped models, the stream's schedule, progressive loading."""
