// Package providertest is the contract suite that every provider must pass. A
// provider's test describes its cloud to Run: how to make a simulated account,
// which Services to ask for, what can be changed behind the provider's back.
// The suite drives the real engine on it as a controller would, through
// restarts, lost answers and rivals, in virtual time, and compares what is in
// the account with what an undisturbed run leaves there. The package reference
// below it holds a provider on a cloud in memory that proves the suite.
package providertest
