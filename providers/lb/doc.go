// Package lb is the neutral model of an external load balancer and the
// contract between the engine (providers/plan), the controllers and the clouds.
// A Service becomes a list of Resources; a Provider says which ones it wants
// (Desired), which ones exist (Observe), and makes one Change at a time
// (Apply). The package knows neither Kubernetes nor any cloud and imports the
// standard library only, so that each side can be tested without the other.
package lb
