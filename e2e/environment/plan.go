package environment

import (
	"fmt"
	"strings"
)

// LoggedPlan returns the last plan that the controller logged for a Service
// ("namespace/name"), in its text form. It is an error as long as there is none.
func (e *Environment) LoggedPlan(service string) (string, error) {
	log, err := e.ControllerLog()
	if err != nil {
		return "", err
	}
	// klog writes a value of several lines between "=<" and " >", each line
	// after a tab.
	last := strings.LastIndex(log, fmt.Sprintf(`"Plan" for="service %s"`, service))
	_, text, begun := strings.Cut(log[max(last, 0):], "plan=<\n")
	text, _, ended := strings.Cut(text, "\n >")
	if last < 0 || !begun || !ended {
		return "", fmt.Errorf("the controller has logged no plan for %s", service)
	}
	var plan strings.Builder
	for line := range strings.Lines(text) {
		plan.WriteString(strings.TrimPrefix(line, "\t"))
	}
	return plan.String(), nil
}
