package ingress

// What the tests outside the package use.
type (
	ServerOptions = serverOptions
	RouteOptions  = routeOptions
	Store         = messageStore
)

var (
	NewServer          = newServer
	ErrIDStays         = errIDStays
	ErrNotStored       = errNotStored
	ErrPanic           = errPanic
	ErrTooManyInFlight = errTooManyInFlight
)

// Handle adds a handler for a source.
func (s *server) Handle(o RouteOptions) { s.handle(o) }

// Status returns the status of the response to an error.
func Status(err error) int { return responseTo(err).status }
