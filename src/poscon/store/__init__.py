"""The prepared data set: what training reads, and how it is made from scans."""
