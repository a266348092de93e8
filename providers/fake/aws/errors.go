package aws

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
)

// apiError is an error as the cloud answers it: a code that clients act on and a
// sentence for people.
//
// https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/CommonErrors.html
// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
type apiError struct {
	Code    string
	Message string
	Status  int
}

func (e *apiError) Error() string { return e.Code + ": " + e.Message }

// fail makes an error of the client's fault (HTTP 400).
func fail(code, format string, args ...any) error {
	return &apiError{Code: code, Message: fmt.Sprintf(format, args...), Status: http.StatusBadRequest}
}

// failStatus makes an error with an HTTP status of its own.
func failStatus(status int, code, format string, args ...any) error {
	return &apiError{Code: code, Message: fmt.Sprintf(format, args...), Status: status}
}

// isCode says whether an error has one of the codes.
func isCode(err error, codes ...string) bool {
	failure, ok := errors.AsType[*apiError](err)
	return ok && slices.Contains(codes, failure.Code)
}

// Codes that several operations answer.
const (
	codeValidation           = "ValidationError"
	codeInvalidConfiguration = "InvalidConfigurationRequest"
	codeInvalidParameter     = "InvalidParameterValue"
	codeParameterCombination = "InvalidParameterCombination"
	codeMissingParameter     = "MissingParameter"
	codeLoadBalancerNotFound = "LoadBalancerNotFound"
	codeTargetGroupNotFound  = "TargetGroupNotFound"
	codeListenerNotFound     = "ListenerNotFound"
	codeGroupNotFound        = "InvalidGroup.NotFound"
	codeResourceInUse        = "ResourceInUse"
	codeDependencyViolation  = "DependencyViolation"
)
