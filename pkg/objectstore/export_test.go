package objectstore

import "time"

// Hurry has a Client give up soon.
func (c *Client) Hurry(patience time.Duration) { c.patience, c.stall = patience, patience }
