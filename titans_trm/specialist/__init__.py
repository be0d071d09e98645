"""The specialist on call: packages, skill, specialists, verification, remedies and their audit."""
