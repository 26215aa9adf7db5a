package process

import "time"

// An Observer is called for every request and every delivery that a program has ended. headgate dev shows them on its
// screen. Implementations must be safe for concurrent use and fast.
type Observer interface {
	// RequestEnded returns true when the request needs no log line.
	RequestEnded(Request) (shown bool)
	// DeliveryEnded returns true when the delivery needs no log line.
	DeliveryEnded(Delivery) (shown bool)
}

// A Request is a request to the ingress that was answered, in the words of the ingress's log and metrics.
type Request struct {
	Outcome    string
	Status     int
	ID         string // the webhook-id, once verified
	Type       string
	Quarantine string // why it is in the quarantine
	Reason     string // why it was refused, or could not be stored
	Found      string // what is wrong with its signature, where it was diagnosed
	Took       time.Duration
	Failed     bool // the ingress or NATS is at fault: the log line is an error
}

// A Delivery is a delivery to a worker that ended, in the words of the worker's log and metrics.
type Delivery struct {
	Worker  string
	Outcome string
	ID      string // the webhook-id
	Type    string
	Redrive string
	Attempt int
	Cause   string // the error, if there was one
	Took    time.Duration
}
