package lb

import "time"

// Codes of a Call that are not the cloud's own.
const (
	// CallOK is an answer without an error.
	CallOK = "OK"
	// CallNoAnswer is a request without a usable answer.
	CallNoAnswer = "NoAnswer"
)

// Call is one request to a cloud's API, for those who count them.
type Call struct {
	// Service and Operation are named as the cloud does: "EC2",
	// "DescribeSecurityGroups".
	Service, Operation string
	// Code is CallOK, the cloud's error code, or CallNoAnswer.
	Code string
	// Took is the time until the answer, Waited that before it was sent, for the
	// cloud not to refuse it for its number.
	Took, Waited time.Duration
}
