package codat

import (
	"cmp"
	"reflect"
	"slices"
	"strings"
)

// Type is an event type in the catalog.
type Type struct {
	Name      string
	Pattern   bool // the name begins with "*", which stands for exactly one token
	Legacy    bool // Codat has deprecated or withdrawn it; it may still come
	Uncertain bool // Codat's documentation names it, but shows no schema

	payload reflect.Type                   // P of the type's constant, a Name[P]
	decode  func(body []byte) (any, error) // Decode with P, for tests
}

// Payload returns the Go type that Decode is for: of the member payload or, of a type in the legacy format, of the whole body.
func (t Type) Payload() reflect.Type { return t.payload }

// InEnvelope reports whether a body of this type has its payload in the member payload. Otherwise it has the legacy format,
// a Rule.
func (t Type) InEnvelope() bool { return strings.Contains(t.Name, ".") }

// Catalog returns all event types: current ones, whether literal or a pattern, and legacy
// ones, in ascending order of their names. The slice is the caller's.
func Catalog() []Type { return slices.Clone(catalog) }

// Current returns the names of the event types that Codat documents today with a schema, in ascending order. The types of a
// custom product are not among them: their names begin with its identifier.
func Current() []string {
	var all []string
	for _, t := range catalog {
		if !t.Pattern && !t.Legacy && !t.Uncertain {
			all = append(all, t.Name)
		}
	}
	return all
}

// Known reports whether typ is in the catalog, by its name or because it fits a pattern.
// An unknown type is no error: Codat adds types without notice.
func Known(typ string) bool {
	if name, ok := names[typ]; ok {
		return name == typ
	}
	product, rest, _ := strings.Cut(typ, ".")
	_, ok := names["*."+rest]
	return ok && product != ""
}

// TypeOf returns the entry of the catalog that typ is of, by its name or because it fits a pattern. It is not ok for a type
// that is not Known.
func TypeOf(typ string) (t Type, ok bool) {
	_, rest, _ := strings.Cut(typ, ".")
	for _, name := range []string{typ, "*." + rest} {
		i, found := slices.BinarySearchFunc(catalog, name, func(t Type, name string) int { return cmp.Compare(t.Name, name) })
		if found && Known(typ) {
			return catalog[i], true
		}
	}
	return Type{}, false
}

type mark uint

const (
	legacy mark = 1 << iota
	uncertain
)

func entry[P any](name Name[P], marks mark) Type {
	return Type{
		Name:      string(name),
		Pattern:   strings.HasPrefix(string(name), "*"),
		Legacy:    marks&legacy != 0,
		Uncertain: marks&uncertain != 0,
		payload:   reflect.TypeFor[P](),
		decode:    func(body []byte) (any, error) { return Decode[P](body) },
	}
}

var catalog = sorted(
	entry(CompanyCreated, 0),
	entry(CompanyDeleted, 0),
	entry(CompanyProductAdded, 0),
	entry(CompanyProductRemoved, 0),
	entry(ConnectionCreated, 0),
	entry(ConnectionConnected, 0),
	entry(ConnectionFailed, 0),
	entry(ConnectionDisconnected, 0),
	entry(ConnectionReconnected, 0),
	entry(ConnectionDeleted, 0),
	entry(ReadCompleted, 0),
	entry(ReadCompletedInitial, 0),
	entry(ReadCompletedSuccessful, uncertain),
	entry(ReadCompletedUnsuccessful, uncertain),
	entry(ReadCompletedSuccessfulInitial, uncertain),
	entry(ProductReadCompleted, 0),
	entry(ProductReadCompletedSuccessful, uncertain),
	entry(ProductReadCompletedUnsuccessful, uncertain),
	entry(BankAccountsWriteSuccessful, 0),
	entry(BankAccountsWriteUnsuccessful, 0),
	entry(BankTransactionsWriteSuccessful, 0),
	entry(BankTransactionsWriteUnsuccessful, 0),
	entry(BillCreditNotesWriteSuccessful, 0),
	entry(BillCreditNotesWriteUnsuccessful, 0),
	entry(BillPaymentsWriteSuccessful, 0),
	entry(BillPaymentsWriteUnsuccessful, 0),
	entry(BillsWriteSuccessful, 0),
	entry(BillsWriteUnsuccessful, 0),
	entry(ChartOfAccountsWriteSuccessful, 0),
	entry(ChartOfAccountsWriteUnsuccessful, 0),
	entry(CreditNotesWriteSuccessful, 0),
	entry(CreditNotesWriteUnsuccessful, 0),
	entry(CustomersWriteSuccessful, 0),
	entry(CustomersWriteUnsuccessful, 0),
	entry(DirectCostsWriteSuccessful, 0),
	entry(DirectCostsWriteUnsuccessful, 0),
	entry(DirectIncomesWriteSuccessful, 0),
	entry(DirectIncomesWriteUnsuccessful, 0),
	entry(InvoicesWriteSuccessful, 0),
	entry(InvoicesWriteUnsuccessful, 0),
	entry(ItemsWriteSuccessful, 0),
	entry(ItemsWriteUnsuccessful, 0),
	entry(JournalEntriesWriteSuccessful, 0),
	entry(JournalEntriesWriteUnsuccessful, 0),
	entry(JournalsWriteSuccessful, 0),
	entry(JournalsWriteUnsuccessful, 0),
	entry(PaymentsWriteSuccessful, 0),
	entry(PaymentsWriteUnsuccessful, 0),
	entry(PurchaseOrdersWriteSuccessful, 0),
	entry(PurchaseOrdersWriteUnsuccessful, 0),
	entry(SuppliersWriteSuccessful, 0),
	entry(SuppliersWriteUnsuccessful, 0),
	entry(TransfersWriteSuccessful, 0),
	entry(TransfersWriteUnsuccessful, 0),
	entry(RateLimitReached, 0),
	entry(RateLimitReset, 0),
	entry(SourceAccountConnected, 0),
	entry(SourceAccountDisconnected, 0),
	entry(ExpensesSyncSuccessful, 0),
	entry(ExpensesSyncUnsuccessful, 0),
	entry(CategorizedBankStatementSuccessful, 0),
	entry(CategorizedBankStatementUnsuccessful, 0),
	entry(CreditModelSuccessful, 0),
	entry(CreditModelUnsuccessful, 0),
	entry(SpendAnalysisSuccessful, 0),
	entry(SpendAnalysisUnsuccessful, 0),
	entry(AccountCategoriesUpdated, 0),
	entry(DataConnectionStatusChanged, legacy),
	entry(NewCompanySynchronized, legacy),
	entry(DataSyncCompleted, legacy),
	entry(DatasetDataChanged, legacy),
	entry(DataSyncStatusChangedToError, legacy),
	entry(PushOperationStatusChanged, legacy),
	entry(PushOperationTimedOut, legacy),
	entry(SyncConnectionDeleted, legacy),
	entry(SyncStarted, legacy|uncertain),
	entry(SyncCompleted, legacy),
	entry(SyncFailed, legacy),
	entry(ClientRateLimitReached, legacy),
	entry(ClientRateLimitReset, legacy),
	entry(PayablesBillCreated, legacy|uncertain),
	entry(PayablesBillUpdated, legacy|uncertain),
	entry(PayablesBillDeleted, legacy|uncertain),
	entry(ReadComplete, legacy|uncertain),
)

func sorted(types ...Type) []Type {
	slices.SortFunc(types, func(a, b Type) int { return cmp.Compare(a.Name, b.Name) })
	return types
}

// names maps what an event may call its type, to the byte, to the canonical type.
var names = func() map[string]string {
	all := map[string]string{
		// Spellings of Codat's own documentation.
		"bill.write.successful":                                 string(BillsWriteSuccessful),
		"bill.write.unsuccessful":                               string(BillsWriteUnsuccessful),
		"connection.conneected":                                 string(ConnectionConnected),
		"report.categorizedBankStatement.generate.successful":   string(CategorizedBankStatementSuccessful),
		"report.categorizedBankStatement.generate.unsuccessful": string(CategorizedBankStatementUnsuccessful),
		"report.creditModel.generate.successful":                string(CreditModelSuccessful),
		"report.creditModel.generate.unsuccessful":              string(CreditModelUnsuccessful),
		"report.spendAnalysis.generate.successful":              string(SpendAnalysisSuccessful),
		"report.spendAnalysis.generate.unsuccessful":            string(SpendAnalysisUnsuccessful),
	}
	for _, t := range catalog {
		all[t.Name] = t.Name
	}
	return all
}()

// rules maps a rule's type, made normal, to the canonical type. Codat writes sentences,
// and has changed them over the years.
var rules = func() map[string]string {
	all := map[string]string{
		"companydataconnectionstatuschanged":    string(DataConnectionStatusChanged),
		"newcompanysynchronised":                string(NewCompanySynchronized),
		"datasetstatushaschangedtoanerrorstate": string(DataSyncStatusChangedToError),
		"pushoperationstatushaschanged":         string(PushOperationStatusChanged),
		"pushoperationhastimedout":              string(PushOperationTimedOut),
		"expensesyncstarted":                    string(SyncStarted),
		"expensessyncstarted":                   string(SyncStarted),
		"synccomplete":                          string(SyncCompleted),
		"expensesynccompleted":                  string(SyncCompleted),
		"expensessynccompleted":                 string(SyncCompleted),
		"expensesyncfailed":                     string(SyncFailed),
		"expensessyncfailed":                    string(SyncFailed),
		"ratelimitreached":                      string(ClientRateLimitReached),
		"clientratelimitexceeded":               string(ClientRateLimitReached),
		"ratelimitreset":                        string(ClientRateLimitReset),
	}
	for _, t := range catalog {
		if !strings.Contains(t.Name, ".") {
			all[normal(t.Name)] = t.Name
		}
	}
	return all
}()
